-- What was published: the audit trail, and who leads what.

-- Every transition, in order. record holds the exact bytes that the hashes cover.
CREATE TABLE audit (
  seq             bigint      PRIMARY KEY,
  revision        bigint      NOT NULL,
  ordinal         bigint      NOT NULL,
  kind            text        NOT NULL,
  scope           text        NOT NULL,
  scope_kind      text        NOT NULL,
  labels          jsonb       NOT NULL,
  member_id       text        NOT NULL,
  session         bigint      NOT NULL,
  term            bigint      NOT NULL,
  fence           bigint      NOT NULL,
  reason          text        NOT NULL,
  correlation_id  text        NOT NULL,
  actor           text        NOT NULL,
  occurred_at     timestamptz NOT NULL,
  issued_at       timestamptz,
  hash            bytea       NOT NULL,
  record          bytea       NOT NULL
);
CREATE INDEX audit_scope ON audit (scope, seq);

-- One row for each scope that was ever led. A vacant or retired one has no
-- leader_id, and keeps the fence of its last leader: the guard must not forget it.
CREATE TABLE leaders (
  scope          text   PRIMARY KEY,
  scope_kind     text   NOT NULL,
  leader_id      text,
  session        bigint,
  term           bigint NOT NULL,
  fence          bigint NOT NULL,
  since          timestamptz,
  applied_index  bigint NOT NULL  -- the revision that changed the row last
);

CREATE FUNCTION moment(ns bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT timestamptz 'epoch' + (ns / 1000) * interval '1 microsecond'
$$;

-- lead_by writes into leaders what the audit records above after_seq say, or the last
-- words on the scopes given.
CREATE FUNCTION lead_by(after_seq bigint, only_scopes text[]) RETURNS void LANGUAGE sql AS $$
  INSERT INTO leaders AS l (scope, scope_kind, leader_id, session, term, fence, since, applied_index)
  SELECT DISTINCT ON (a.scope) a.scope, a.scope_kind,
    CASE WHEN a.kind = 'ELECTED' THEN a.member_id END, CASE WHEN a.kind = 'ELECTED' THEN a.session END,
    a.term, a.fence, CASE WHEN a.kind = 'ELECTED' THEN a.issued_at END, a.revision
  FROM audit a
  WHERE a.seq > after_seq AND a.kind IN ('ELECTED', 'LOST', 'EXPIRED', 'STEPPED_DOWN')
    AND (only_scopes IS NULL OR a.scope = ANY (only_scopes))
  ORDER BY a.scope, a.seq DESC
  ON CONFLICT (scope) DO UPDATE SET scope_kind = excluded.scope_kind, leader_id = excluded.leader_id, session = excluded.session,
    term = greatest(l.term, excluded.term), fence = greatest(l.fence, excluded.fence), since = excluded.since,
    applied_index = excluded.applied_index
$$;

CREATE FUNCTION log_publish(
  cluster text, at_term bigint, after_seq bigint, new_revision bigint,
  seqs bigint[], revisions bigint[], ordinals bigint[], kinds text[], scopes text[], scope_kinds text[], labels text[],
  member_ids text[], sessions bigint[], terms bigint[], fences bigint[], reasons text[], correlation_ids text[], actors text[],
  wall_ns bigint[], issued_wall_ns bigint[], hashes bytea[], records bytea[],
  OUT refused text, OUT answered_by text, OUT standing lead, OUT newest bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE done applied;
BEGIN
  answered_by := server();
  PERFORM durable();
  SELECT * INTO standing FROM lead FOR KEY SHARE;
  PERFORM fit(standing, cluster);
  SELECT * INTO done FROM applied FOR NO KEY UPDATE;
  IF done.single IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'LD001', MESSAGE = 'the row of applied is gone: restore a backup of this schema';
  ELSIF standing.term <> at_term OR done.published <> after_seq
    OR coalesce(revisions[cardinality(revisions)], 0) > standing.last THEN
    refused := 'another office, another place in the audit trail, or of entries that are not here';
    newest := done.published;
    RETURN;
  END IF;
  INSERT INTO audit
    SELECT r.seq, r.revision, r.ordinal, r.kind, r.scope, r.scope_kind, r.labels::jsonb, r.member_id, r.session, r.term, r.fence,
      r.reason, r.correlation_id, r.actor, moment(r.wall_ns), CASE WHEN r.issued_wall_ns <> 0 THEN moment(r.issued_wall_ns) END,
      r.hash, r.record
    FROM unnest(seqs, revisions, ordinals, kinds, scopes, scope_kinds, labels, member_ids, sessions, terms, fences,
      reasons, correlation_ids, actors, wall_ns, issued_wall_ns, hashes, records)
    AS r (seq, revision, ordinal, kind, scope, scope_kind, labels, member_id, session, term, fence,
      reason, correlation_id, actor, wall_ns, issued_wall_ns, hash, record);
  SELECT coalesce(max(a.seq), 0) INTO newest FROM audit a;
  UPDATE applied SET applied_index = new_revision, published = newest;
  PERFORM lead_by(after_seq, NULL);
END $$;

CREATE FUNCTION log_trail(cluster text, after_seq bigint, at_most bigint, OUT refused text, OUT answered_by text, OUT standing lead, OUT records bytea[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
BEGIN
  answered_by := server();
  SELECT * INTO standing FROM lead;
  PERFORM fit(standing, cluster);
  SELECT array_agg(r.record ORDER BY r.seq) INTO records
    FROM (SELECT a.seq, a.record FROM audit a WHERE a.seq > after_seq ORDER BY a.seq LIMIT at_most) r;
END $$;

-- log_replace makes a snapshot the whole log. Scopes whose records are dropped go
-- back to what the records before say; fences do not.
CREATE FUNCTION log_replace(
  cluster text, guard_term bigint, guard_last bigint, keep_published bigint,
  new_schema bigint, new_term bigint, new_holder bigint, new_last bigint, new_chain bytea, new_append_id bytea, new_beat bigint,
  new_identity text, new_generation bigint, new_closed text, new_round bigint,
  snapshot_index bigint, snapshot_term bigint, snapshot_chain bytea, snapshot_data bytea,
  OUT refused text, OUT answered_by text, OUT standing lead
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  whole    bigint;
  dropped  text[];
BEGIN
  answered_by := server();
  standing := held(cluster);
  PERFORM durable();
  IF standing.term <> guard_term OR standing.last <> guard_last THEN
    refused := 'the log stands elsewhere';
    RETURN;
  END IF;
  INSERT INTO snapshot (index, term, chain, data)
    VALUES (snapshot_index, snapshot_term, snapshot_chain, snapshot_data) RETURNING id INTO whole;
  UPDATE lead SET present = true, schema = new_schema, cluster_id = cluster, term = new_term, holder = new_holder,
    last = new_last, chain = new_chain, append_id = new_append_id, beat = new_beat, identity = new_identity,
    generation = new_generation, closed = new_closed, round = new_round, snapshot = whole;
  PERFORM FROM applied FOR NO KEY UPDATE; -- after lead, as log_publish does
  DELETE FROM snapshot s WHERE s.id < whole;
  DELETE FROM entry;
  DELETE FROM attested;
  WITH d AS (DELETE FROM audit a WHERE a.seq > keep_published RETURNING a.scope)
    SELECT array_agg(DISTINCT d.scope) INTO dropped FROM d;
  UPDATE applied SET published = coalesce((SELECT max(a.seq) FROM audit a), 0),
    applied_index = coalesce((SELECT a.revision FROM audit a ORDER BY a.seq DESC LIMIT 1), 0);
  UPDATE leaders SET leader_id = NULL, session = NULL, since = NULL WHERE scope = ANY (dropped);
  PERFORM lead_by(0, dropped) WHERE dropped IS NOT NULL;
  PERFORM wake();
  SELECT * INTO standing FROM lead;
END $$;
