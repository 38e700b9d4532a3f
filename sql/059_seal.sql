-- Seals: a chained, signable digest over each block of entries, and what verifying them found. Digests are computed outside the
-- database: whoever could alter entries could alter a function that says that they fit.

set search_path = pg_catalog, pg_temp;

create table audit.seal (
    sequence bigint not null,
    lower_bound timestamptz not null,
    upper_bound timestamptz not null,
    sealed_at timestamptz not null,
    entries bigint not null,
    changes bigint not null,
    root bytea not null,
    previous_digest bytea not null,
    digest bytea not null,
    key_fingerprint bytea,
    signature bytea,
    entry_keys bytea,
    dropped_at timestamptz,
    constraint block_is_sealed_once primary key (sequence),
    constraint block_begins_once unique (lower_bound),
    constraint block_has_a_length check (lower_bound < upper_bound and isfinite(lower_bound) and isfinite(upper_bound)),
    constraint digests_have_32_bytes check (
        length(root) = 32 and length(previous_digest) = 32 and length(digest) = 32 and length(key_fingerprint) = 32),
    constraint signature_has_64_bytes_and_a_key check (
        (signature is null) = (key_fingerprint is null) and length(signature) = 64)
);
comment on table audit.seal is
    'The seals, one for each block of entries, chained by their digests; docs/integrity.md defines these. Rows are only ever inserted; seals of dropped days stay.';
comment on column audit.seal.sequence is 'Number of the block, from 1 on without gaps. Never null.';
comment on column audit.seal.lower_bound is 'First moment of the block: the upper_bound of the one before. Never null.';
comment on column audit.seal.upper_bound is 'First moment that the block no longer holds: a watermark, or the end of a UTC day, which no block reaches over. Never null.';
comment on column audit.seal.sealed_at is 'When it was sealed, by the clock of whoever sealed. Never null.';
comment on column audit.seal.entries is 'Entries of the block. Never null.';
comment on column audit.seal.changes is 'Changed rows in audit.change of the block. Never null.';
comment on column audit.seal.root is 'Root of the Merkle tree (RFC 6962) over the block''s entries. Never null.';
comment on column audit.seal.previous_digest is 'Digest of the block before; 32 random bytes for the first, which tell this chain from others. Never null.';
comment on column audit.seal.digest is 'SHA-256 over previous_digest and all columns before it. Never null.';
comment on column audit.seal.key_fingerprint is 'SHA-256 of the public key that the signature holds by. Null: not signed.';
comment on column audit.seal.signature is 'Ed25519 signature of the digest. Null: not signed.';
comment on column audit.seal.entry_keys is
    'For each leaf its id and the first four bytes of its digest: a help to name the entry that does not fit; no digest covers it. Null: the day was dropped.';
comment on column audit.seal.dropped_at is 'When retention dropped the day of the block. Null: it stands.';

create trigger seal_is_never_altered
    before update on audit.seal
    for each row
    when ((old.sequence, old.lower_bound, old.upper_bound, old.sealed_at, old.entries, old.changes, old.root, old.previous_digest,
           old.digest, old.key_fingerprint, old.signature)
          is distinct from (new.sequence, new.lower_bound, new.upper_bound, new.sealed_at, new.entries, new.changes, new.root,
                            new.previous_digest, new.digest, new.key_fingerprint, new.signature)
          or new.entry_keys is not null or new.dropped_at is null or old.dropped_at is not null)
    execute function audit.refuse_alteration();
create trigger seal_is_never_deleted
    before delete on audit.seal
    for each row execute function audit.refuse_alteration();
create trigger seal_is_never_truncated
    before truncate on audit.seal
    for each statement execute function audit.refuse_alteration();

create table audit.sealing (
    only_row boolean not null default true,
    problem text,
    problem_since timestamptz,
    constraint sealing_has_one_row primary key (only_row),
    constraint only_row_is_true check (only_row)
);
comment on table audit.sealing is 'What sealing could not do, one row from the first trouble on. Written by audit.note_sealing().';
comment on column audit.sealing.only_row is 'Always true: keeps the table at one row.';
comment on column audit.sealing.problem is 'What the last run met, in a sentence. Null: nothing.';
comment on column audit.sealing.problem_since is 'When it was first met. Null: nothing was.';

create table audit.verification (
    finished_at timestamptz not null,
    verified_by text collate "C" not null default session_user,
    verified_from timestamptz,
    verified_until timestamptz,
    blocks bigint not null,
    entries bigint not null,
    misfit_count bigint not null,
    misfits jsonb not null,
    constraint verification_is_noted_once primary key (finished_at)
);
comment on table audit.verification is 'What the last hundred runs of "daybook verify" found. Written by audit.note_verification().';
comment on column audit.verification.finished_at is 'When it was done. Never null.';
comment on column audit.verification.verified_by is 'The login role (session_user) that verified. Never null.';
comment on column audit.verification.verified_from is 'Lower bound of the first block that was computed again. Null: there was none.';
comment on column audit.verification.verified_until is 'Upper bound of the last one. Null: there was none.';
comment on column audit.verification.blocks is 'Blocks that were computed again. Never null.';
comment on column audit.verification.entries is 'Entries that were. Never null.';
comment on column audit.verification.misfit_count is 'How much did not fit; 0: all is well. Never null.';
comment on column audit.verification.misfits is
    'The first thousand misfits, an array of objects: kind, block, entry_id, workspace_id, detail; each but kind and detail may be null. Never null.';

create function audit.sealed_until()
    returns timestamptz
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select s.upper_bound from audit.seal s order by s.sequence desc limit 1;
end;
comment on function audit.sealed_until() is 'The end of the last sealed block. Null: nothing is sealed.';

create function audit.seal_bounds(least_length interval default '0', least_idle_length interval default '0')
    returns table (partition_name text, lower_bound timestamptz, upper_bound timestamptz)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    with sealed as (
        select coalesce(audit.sealed_until(),
                        (select min(d.lower_bound) from audit.day_partition d where d.log_table = 'entry' and not d.detach_pending)) as until
    ), next as (
        select s.until, least(w.moment, audit.day_start(audit.utc_day(s.until) + 1)) as upper_bound,
               w.moment >= audit.day_start(audit.utc_day(s.until) + 1) as ends_day
        from sealed s
        cross join audit.watermark w
    )
    -- Asked once a second, and seldom with a row: the partition is looked up for that alone.
    select (select d.partition_name from audit.day_partition d
            where d.log_table = 'entry' and n.until >= d.lower_bound and n.until < d.upper_bound),
           n.until, n.upper_bound
    from next n
    where n.upper_bound > n.until
      and (n.ends_day or n.upper_bound - n.until >= least_idle_length
           or (n.upper_bound - n.until >= least_length
               -- Nothing is written: what there was is counted, and upkeep counts before it seals.
               and exists (select from audit.daily_activity a where a.day = audit.utc_day(n.until))));
end;
comment on function audit.seal_bounds(interval, interval) is
    'What is to be sealed next: from the end of the last block to the watermark, at most to the end of that UTC day, and the day partition of audit.entry that it lies in (null: none stands). No row: nothing, or less than least_length (least_idle_length on a day without entries) while the day goes on.';

create function audit.add_seal(
    sequence bigint,
    lower_bound timestamptz,
    upper_bound timestamptz,
    sealed_at timestamptz,
    entries bigint,
    changes bigint,
    root bytea,
    previous_digest bytea,
    digest bytea,
    key_fingerprint bytea,
    signature bytea,
    entry_keys bytea)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    last_seal audit.seal;
begin
    -- No reader and no writer of entries waits for it: two that seal at once would fork the chain.
    lock table audit.seal in share row exclusive mode;
    select * into last_seal from audit.seal order by sequence desc limit 1;
    if add_seal.sequence <> coalesce(last_seal.sequence, 0) + 1
       or add_seal.previous_digest <> last_seal.digest
       or add_seal.lower_bound <> last_seal.upper_bound
       or add_seal.upper_bound > audit.day_start(audit.utc_day(add_seal.lower_bound) + 1)
       or (select w.moment >= add_seal.upper_bound from audit.watermark w) is not true then
        raise exception 'block % does not follow block %', add_seal.sequence, coalesce(last_seal.sequence, 0)
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Another run may have sealed meanwhile; the next one goes on.';
    end if;
    insert into audit.seal (sequence, lower_bound, upper_bound, sealed_at, entries, changes, root, previous_digest, digest,
                            key_fingerprint, signature, entry_keys)
    values (add_seal.sequence, add_seal.lower_bound, add_seal.upper_bound, add_seal.sealed_at, add_seal.entries, add_seal.changes,
            add_seal.root, add_seal.previous_digest, add_seal.digest, add_seal.key_fingerprint, add_seal.signature, add_seal.entry_keys);
end
$function$;
comment on function audit.add_seal(bigint, timestamptz, timestamptz, timestamptz, bigint, bigint, bytea, bytea, bytea, bytea, bytea, bytea) is
    'Adds the seal of the next block; arguments as the columns of audit.seal. Raises 55000 for one that does not follow the last, spans two UTC days or reaches over the watermark.';

create function audit.note_sealing(problem text)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    if problem is not distinct from (select s.problem from audit.sealing s) then
        return;
    end if;
    insert into audit.sealing as s (problem, problem_since)
    values (note_sealing.problem, case when note_sealing.problem is not null then clock_timestamp() end)
    on conflict on constraint sealing_has_one_row do update
    set problem = excluded.problem, problem_since = excluded.problem_since;
    if problem is not null then
        perform audit.write_event('seal_failed', 'seal', null, jsonb_build_object(
            'problem', problem, 'sealed_until', audit.sealed_until()));
    end if;
end
$function$;
comment on function audit.note_sealing(text) is
    'Notes what sealing could not do (null: it went well). A trouble leaves one seal_failed entry, however often it is met.';

create function audit.blocks_of_day(day_name text)
    returns table (first_block bigint, last_block bigint, digest bytea)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    with block as (
        select s.sequence, s.digest
        from audit.seal s
        left join audit.day_partition d on d.log_table = 'entry' and d.partition_name = day_name
        where s.dropped_at is null
          and s.upper_bound <= coalesce(d.upper_bound, audit.day_start(to_date(right(day_name, 8), 'YYYYMMDD') + 1))
          -- Detached, only its last day is known: what stands in no other partition was in it.
          and s.lower_bound >= coalesce(d.lower_bound, '-infinity')
          and not exists (select from audit.day_partition other
                          where other.log_table = 'entry' and other.partition_name <> day_name
                            and s.lower_bound >= other.lower_bound and s.lower_bound < other.upper_bound)
    )
    select min(b.sequence), max(b.sequence), (select l.digest from block l order by l.sequence desc limit 1)
    from block b;
end;
comment on function audit.blocks_of_day(text) is
    'The first and last block of a day partition of audit.entry, and the last one''s digest. Nulls: none of it is sealed.';

create function audit.day_awaits_seal(day_name text)
    returns boolean
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce((select d.upper_bound from audit.day_partition d where d.log_table = 'entry' and d.partition_name = day_name),
                    audit.day_start(to_date(right(day_name, 8), 'YYYYMMDD') + 1)) > audit.sealed_until();
end;
comment on function audit.day_awaits_seal(text) is
    'Whether a day partition of audit.entry is sealed before it is dropped and is not sealed yet. Null, as good as false: nothing was ever sealed.';

create function audit.forget_seals(day_name text)
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    update audit.seal s
    -- One moment for all of them.
    set dropped_at = (select clock_timestamp()), entry_keys = null
    from audit.blocks_of_day(day_name) b
    where s.sequence between b.first_block and b.last_block and s.dropped_at is null;
end;
comment on function audit.forget_seals(text) is 'Notes with the seals of a day that it is dropped now. They stay.';

create function audit.note_verification(
    verified_from timestamptz,
    verified_until timestamptz,
    blocks bigint,
    entries bigint,
    misfit_count bigint,
    misfits jsonb)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
begin
    lock table audit.verification in share row exclusive mode;
    insert into audit.verification (finished_at, verified_from, verified_until, blocks, entries, misfit_count, misfits)
    values (clock_timestamp(), note_verification.verified_from, note_verification.verified_until, note_verification.blocks,
            note_verification.entries, note_verification.misfit_count, note_verification.misfits);
    delete from audit.verification v
    where v.finished_at < (select finished_at from audit.verification order by finished_at desc offset 99 limit 1);
end
$function$;
comment on function audit.note_verification(timestamptz, timestamptz, bigint, bigint, bigint, jsonb) is
    'Notes what a run of "daybook verify" found; arguments as the columns of audit.verification.';

create function audit.integrity()
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object(
        'blocks', coalesce(s.sequence, 0),
        'sealed_until', s.upper_bound,
        'sealed_at', s.sealed_at,
        'is_signed', s.signature is not null,
        'problem', p.problem,
        'verified_at', v.finished_at,
        'verified_from', v.verified_from,
        'verified_until', v.verified_until,
        'misfits', v.misfit_count)
    from (select) always
    left join lateral (select * from audit.seal order by sequence desc limit 1) s on true
    left join lateral (select * from audit.verification order by finished_at desc limit 1) v on true
    left join audit.sealing p on true;
end;
comment on function audit.integrity() is
    'How the seals stand, as one object: blocks, sealed_until, sealed_at, is_signed (of the last block), problem (of sealing), verified_at, verified_from, verified_until, misfits (of the last verification). Null: never.';

create function audit.workspace_misfits()
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(jsonb_agg(jsonb_build_object('kind', m ->> 'kind', 'entry_id', m ->> 'entry_id', 'block', m -> 'block')
                              order by m -> 'block', m ->> 'entry_id'), '[]')
    from (select * from audit.verification order by finished_at desc limit 1) v
    cross join jsonb_array_elements(v.misfits) m
    where m ->> 'workspace_id' = current_setting('audit.reader_workspace', true);
end;
comment on function audit.workspace_misfits() is
    'Of the last verification''s misfits those of the workspace that the transaction names (audit.reader_workspace), an array of objects: kind, entry_id, block.';
