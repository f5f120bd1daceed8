-- The log: one lead record, its entries, its snapshot, and the calls on them.
--
-- Whoever changes the log holds the lock of the one row of lead until it has
-- committed. The index of an entry is given under that lock: there are no gaps
-- between entries, and none becomes visible before one that precedes it.

CREATE TABLE lead (
  single      boolean NOT NULL DEFAULT true UNIQUE CHECK (single),
  present     boolean NOT NULL DEFAULT false,  -- false: the store holds no log yet
  -- A key, so that who relies on the term (FOR KEY SHARE) waits for a take-over and
  -- keeps it waiting, but not for an append within an office.
  term        bigint  NOT NULL DEFAULT 0 PRIMARY KEY,
  schema      bigint  NOT NULL DEFAULT 0,
  cluster_id  text    NOT NULL DEFAULT '',
  holder      bigint  NOT NULL DEFAULT 0,
  last        bigint  NOT NULL DEFAULT 0,
  chain       bytea   NOT NULL DEFAULT '',
  append_id   bytea   NOT NULL DEFAULT '',
  beat        bigint  NOT NULL DEFAULT 0,
  identity    text    NOT NULL DEFAULT '',
  generation  bigint  NOT NULL DEFAULT 0,
  closed      text    NOT NULL DEFAULT '',
  round       bigint  NOT NULL DEFAULT 0,
  snapshot    bigint  NOT NULL DEFAULT 0       -- the id of the snapshot that counts; 0: none
) WITH (
  -- Several updates a second for ever: as no index holds what they change, each takes
  -- the place of an older one in the same page.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);
INSERT INTO lead DEFAULT VALUES;

CREATE TABLE entry (
  index  bigint PRIMARY KEY CHECK (index > 0),
  term   bigint NOT NULL,
  data   bytea  NOT NULL,
  chain  bytea  NOT NULL
) WITH (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000
);
ALTER TABLE entry ALTER COLUMN data SET STORAGE EXTERNAL;

-- Only the one that lead names counts; others are being written or were left behind.
CREATE TABLE snapshot (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  index  bigint NOT NULL,
  term   bigint NOT NULL,
  chain  bytea  NOT NULL,
  data   bytea  NOT NULL
) WITH (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 1000
);
ALTER TABLE snapshot ALTER COLUMN data SET STORAGE EXTERNAL;

-- The replicas that lost nothing on a server, and the round in which each said so last.
CREATE TABLE attested (
  identity  text   NOT NULL,
  node      bigint NOT NULL,
  round     bigint NOT NULL,
  PRIMARY KEY (identity, node)
);

-- How far audit and leaders are written.
CREATE TABLE applied (
  single         boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (single),
  published      bigint  NOT NULL DEFAULT 0,  -- the number of the newest audit record
  applied_index  bigint  NOT NULL DEFAULT 0   -- every transition up to this revision is in
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO applied DEFAULT VALUES;

-- server names the server that answers, and refuses one that must not be used.
CREATE FUNCTION server() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION USING ERRCODE = 'LD002', MESSAGE = 'the server is a standby, not the primary';
  ELSIF current_setting('fsync') <> 'on' THEN
    RAISE EXCEPTION USING ERRCODE = 'LD001', MESSAGE = 'fsync is off: a crash loses what was acknowledged; set fsync = on';
  ELSIF current_setting('full_page_writes') <> 'on' THEN
    RAISE EXCEPTION USING ERRCODE = 'LD001', MESSAGE = 'full_page_writes is off: a crash can tear pages; set full_page_writes = on';
  ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION USING ERRCODE = 'LD001', MESSAGE = format(
      'transactions are %s: set default_transaction_isolation = ''read committed'' for this role', current_setting('transaction_isolation'));
  END IF;
  RETURN format('pg:%s:%s:%s', (SELECT system_identifier FROM pg_control_system()),
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint,
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint);
END $$;

-- durable makes sure that the answer of this transaction comes after its commit is
-- on disk, and on the synchronous standbys if there are any, whatever the defaults
-- of role and database are; and that there is something to commit. So an answer that
-- wrote nothing proves the same: all that it has seen is as durable.
CREATE FUNCTION durable() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('synchronous_commit') <> 'remote_apply' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  PERFORM pg_logical_emit_message(true, 'leadership', '');
END $$;

CREATE FUNCTION fit(l lead, cluster text) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF l.single IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'LD001', MESSAGE = 'the row of lead is gone: restore a backup of this schema, or start with an empty one';
  ELSIF l.present AND l.cluster_id <> cluster THEN
    RAISE EXCEPTION USING ERRCODE = 'LD001', MESSAGE = format(
      'this is the log of cluster "%s", not of "%s": name the schema of this cluster, or one of its own', l.cluster_id, cluster);
  END IF;
END $$;

-- held returns the lead record, locked.
CREATE FUNCTION held(cluster text) RETURNS lead LANGUAGE plpgsql AS $$
DECLARE l lead;
BEGIN
  SELECT * INTO l FROM lead FOR NO KEY UPDATE;
  PERFORM fit(l, cluster);
  RETURN l;
END $$;

CREATE FUNCTION attested_by(server text, in_round bigint, voters bigint[]) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT cardinality(voters) > 0 AND NOT EXISTS (
    SELECT FROM unnest(voters) AS v WHERE NOT EXISTS (SELECT FROM attested a WHERE a.identity = server AND a.node = v AND a.round = in_round))
$$;

CREATE FUNCTION wake() RETURNS void LANGUAGE sql AS $$
  SELECT pg_notify('@name@_log', '')
$$;

CREATE FUNCTION log_append(
  cluster text, guard_term bigint, guard_last bigint, adopt boolean, voters bigint[],
  new_schema bigint, new_term bigint, new_holder bigint, new_last bigint, new_chain bytea, new_append_id bytea,
  new_identity text, new_generation bigint, new_closed text, new_round bigint,
  terms bigint[], datas bytea[], chains bytea[],
  OUT refused text, OUT answered_by text, OUT standing lead
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
BEGIN
  answered_by := server();
  standing := held(cluster);
  PERFORM durable();
  IF standing.present AND standing.term = new_term AND standing.append_id = new_append_id AND standing.identity = answered_by THEN
    RETURN; -- an earlier attempt took effect
  ELSIF standing.term <> guard_term OR standing.last <> guard_last THEN
    refused := 'the log stands elsewhere';
  ELSIF standing.closed <> '' THEN
    refused := 'the log is closed: ' || standing.closed;
  ELSIF new_identity <> answered_by THEN
    refused := 'the server is another than the caller knows';
  ELSIF standing.present AND standing.identity <> answered_by AND NOT (adopt AND attested_by(answered_by, new_round, voters)) THEN
    refused := 'the log was accepted on another server';
  ELSE
    UPDATE lead SET present = true, schema = new_schema, cluster_id = cluster, term = new_term, holder = new_holder,
      last = new_last, chain = new_chain, append_id = new_append_id, identity = new_identity,
      generation = new_generation, closed = new_closed, round = new_round;
    INSERT INTO entry (index, term, data, chain)
      SELECT guard_last + e.n, e.term, e.data, e.chain
      FROM unnest(terms, datas, chains) WITH ORDINALITY AS e (term, data, chain, n);
    PERFORM wake();
    SELECT * INTO standing FROM lead;
  END IF;
END $$;

CREATE FUNCTION log_confirm(cluster text, at_term bigint, with_beat boolean, OUT refused text, OUT answered_by text, OUT standing lead)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
BEGIN
  answered_by := server();
  PERFORM durable();
  IF with_beat THEN
    UPDATE lead SET beat = beat + 1 WHERE present AND term = at_term AND cluster_id = cluster;
  END IF;
  SELECT * INTO standing FROM lead;
  PERFORM fit(standing, cluster);
END $$;

-- log_fetch is one look: being stable, all of it sees the snapshot of its caller.
CREATE FUNCTION log_fetch(
  cluster text, after_index bigint, max_bytes bigint, max_entries bigint,
  OUT refused text, OUT answered_by text, OUT standing lead, OUT first bigint, OUT published bigint, OUT nodes bigint[], OUT rounds bigint[],
  OUT snapshot_index bigint, OUT snapshot_term bigint, OUT snapshot_chain bytea, OUT snapshot_data bytea,
  OUT indexes bigint[], OUT terms bigint[], OUT datas bytea[], OUT chains bytea[]
) LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  start bigint := after_index;
  stop  bigint := after_index;
  size  bigint := 0;
  many  bigint := 0;
  e     record;
BEGIN
  answered_by := server();
  SELECT * INTO standing FROM lead;
  PERFORM fit(standing, cluster);
  SELECT coalesce((SELECT min(index) FROM entry), standing.last + 1) INTO first;
  SELECT a.published INTO published FROM applied a;
  SELECT array_agg(a.node ORDER BY a.node), array_agg(a.round ORDER BY a.node) INTO nodes, rounds FROM attested a WHERE a.identity = answered_by;
  IF after_index < first - 1 AND standing.snapshot <> 0 THEN
    SELECT s.index, s.term, s.chain, s.data INTO snapshot_index, snapshot_term, snapshot_chain, snapshot_data
      FROM snapshot s WHERE s.id = standing.snapshot;
    start := snapshot_index;
    stop := start;
  END IF;
  FOR e IN SELECT index, octet_length(data) AS bytes FROM entry WHERE index > start ORDER BY index LIMIT max_entries LOOP
    size := size + e.bytes;
    EXIT WHEN many > 0 AND size > max_bytes;
    many := many + 1;
    stop := e.index;
  END LOOP;
  IF many > 0 THEN
    SELECT array_agg(index ORDER BY index), array_agg(term ORDER BY index), array_agg(data ORDER BY index), array_agg(chain ORDER BY index)
      INTO indexes, terms, datas, chains FROM entry WHERE index > start AND index <= stop;
  END IF;
END $$;

CREATE FUNCTION log_attest(cluster text, at_identity text, at_node bigint, in_round bigint, OUT refused text, OUT answered_by text, OUT standing lead)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
BEGIN
  answered_by := server();
  PERFORM durable();
  SELECT * INTO standing FROM lead;
  PERFORM fit(standing, cluster);
  IF at_identity <> answered_by THEN
    refused := 'the server is another than the one attested';
    RETURN;
  END IF;
  INSERT INTO attested (identity, node, round) VALUES (at_identity, at_node, in_round)
    ON CONFLICT (identity, node) DO UPDATE SET round = in_round;
  DELETE FROM attested WHERE identity <> answered_by; -- of servers that are gone for good
END $$;

CREATE FUNCTION log_close(
  cluster text, guarded boolean, guard_term bigint, guard_last bigint, only_on text, reason text,
  OUT refused text, OUT answered_by text, OUT standing lead
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
BEGIN
  answered_by := server();
  standing := held(cluster);
  PERFORM durable();
  IF NOT standing.present THEN
    refused := 'there is no log';
  ELSIF guarded AND (standing.term <> guard_term OR (guard_last <> 0 AND standing.last <> guard_last)) THEN
    refused := 'the log stands elsewhere';
  ELSIF only_on <> '' AND only_on <> answered_by THEN
    refused := 'the server is ' || answered_by;
  ELSIF reason <> '' AND standing.closed <> '' THEN
    refused := 'the log is closed: ' || standing.closed;
  ELSE
    UPDATE lead SET closed = reason;
    SELECT * INTO standing FROM lead;
  END IF;
END $$;

CREATE FUNCTION outdated(l lead, at_term bigint, at_index bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT l.term <> at_term OR at_index > l.last OR
    at_index <= coalesce((SELECT s.index FROM snapshot s WHERE s.id = l.snapshot), 0)
$$;

-- log_upload stores a snapshot that does not count yet: its size does not keep
-- appends waiting.
CREATE FUNCTION log_upload(
  cluster text, at_term bigint, new_index bigint, new_term bigint, new_chain bytea, new_data bytea,
  OUT refused text, OUT answered_by text, OUT standing lead, OUT uploaded bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
BEGIN
  answered_by := server();
  PERFORM durable();
  SELECT * INTO standing FROM lead;
  PERFORM fit(standing, cluster);
  IF outdated(standing, at_term, new_index) THEN
    refused := 'another office, or a newer snapshot is there';
    RETURN;
  END IF;
  INSERT INTO snapshot (index, term, chain, data) VALUES (new_index, new_term, new_chain, new_data) RETURNING id INTO uploaded;
END $$;

-- log_checkpoint makes an uploaded snapshot the one that counts.
CREATE FUNCTION log_checkpoint(cluster text, at_term bigint, uploaded bigint, OUT refused text, OUT answered_by text, OUT standing lead)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
BEGIN
  answered_by := server();
  standing := held(cluster);
  PERFORM durable();
  IF outdated(standing, at_term, coalesce((SELECT s.index FROM snapshot s WHERE s.id = uploaded), 0)) THEN
    refused := 'another office, or a newer snapshot is there';
    DELETE FROM snapshot s WHERE s.id = uploaded AND s.id <> standing.snapshot;
    RETURN;
  END IF;
  UPDATE lead SET snapshot = uploaded;
  DELETE FROM snapshot s WHERE s.id < uploaded;
  SELECT * INTO standing FROM lead;
END $$;

-- log_trim drops some of the oldest entries that the snapshot holds, and returns
-- how many: 0 when none is left.
CREATE FUNCTION log_trim(cluster text, up_to bigint, at_most bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  l     lead;
  many  bigint;
BEGIN
  SELECT * INTO l FROM lead FOR KEY SHARE;
  PERFORM fit(l, cluster);
  DELETE FROM entry
    WHERE index <= least(up_to, coalesce((SELECT s.index FROM snapshot s WHERE s.id = l.snapshot), 0))
      AND index < (SELECT min(index) FROM entry) + at_most;
  GET DIAGNOSTICS many = ROW_COUNT;
  RETURN many;
END $$;
