-- The first days. As an extension none are made here: a restore runs this script before it brings the days of the dump;
-- enable_tracking and maintain() make them when they are missing.

set search_path = pg_catalog, pg_temp;

do $first_days$
declare
    member text;
begin
    if exists (select from pg_catalog.pg_extension where extname = 'pg_daybook') then
        -- Not schema_version, which the script fills.
        -- Not the page's sessions: a parallel restore may bring them before their keys. Who was signed in signs in again.
        foreach member in array array['audit.upkeep', 'audit.day_hold', 'audit.tracked_table', 'audit.actor_key', 'audit.signing_login', 'audit.api_key', 'audit.reading', 'audit.floor',
                                          'audit.watermark', 'audit.daily_activity', 'audit.activity_total', 'audit.closed_day',
                                          'audit.open_entry', 'audit.open_words', 'audit.seal', 'audit.sealing', 'audit.verification'] loop
            perform pg_catalog.pg_extension_config_dump(member::regclass, '');
        end loop;
        perform pg_catalog.pg_extension_config_dump(pg_get_serial_sequence('audit.tracked_table', 'id')::regclass, '');
    else
        perform audit.prepare_days();
    end if;
end
$first_days$;
