-- The demo's past, made by the superuser of a cluster that is thrown away with the demo. What stands here is exactly what the
-- log forbids everywhere else: every entry was captured a moment ago by the real triggers from real writes of the sample
-- application, and is now moved back to the moment that the story gives its transaction. No setting or function of the
-- product can do this; it takes a superuser who switches the guards off.
--
-- pg_temp.story (transaction_id, moment) says when each transaction is to have happened.

-- The guards against alteration are ordinary triggers: for this transaction they do not fire, nor do foreign keys. Capture
-- triggers are ENABLE ALWAYS and would, but no tracked table is written to here.
set local session_replication_role = replica;

-- Within its transaction an entry keeps its distance from the first. What no transaction of the story wrote, the making of the
-- tables, came an hour before all else. The id carries the moment, so it changes with it.
create temporary table moved on commit drop as
select e.id as old_id, audit.new_entry_id(e.moment) as new_id, e.moment
from (
    select entry.id,
           coalesce(story.moment, (select min(moment) - interval '1 hour' from pg_temp.story))
               + (entry.created_at - min(entry.created_at) over (partition by story.transaction_id)) as moment
    from audit.entry
    left join pg_temp.story on story.transaction_id = entry.transaction_id
) e;
create unique index on moved (old_id);
analyze moved;

update audit.change c
set entry_id = m.new_id, created_at = m.moment
from moved m
where c.entry_id = m.old_id;

update audit.entry e
set id = m.new_id, created_at = m.moment
from moved m
where e.id = m.old_id;

update audit.tracked_table
set enabled_at = (select min(moment) from moved);
update audit.upkeep
set installed_at = (select min(moment) from moved);

set local session_replication_role = origin;
