-- The fence guard of a PostgreSQL database whose rows only leaders may change.
-- It can be run again: it makes what is missing and changes no mark.

CREATE SCHEMA IF NOT EXISTS @schema@;

-- The highest fence that was admitted for a scope. Never lowered, never deleted.
CREATE TABLE IF NOT EXISTS @schema@.mark (
  scope  text   PRIMARY KEY,
  fence  bigint NOT NULL CHECK (fence > 0 AND fence < 9007199254740992)
) WITH (fillfactor = 70);

-- admit lets the transaction of a scope's leader go on, or raises LD003 when its fence
-- was overtaken, LD004 when scope or fence is none. Until the transaction ends, one
-- with a higher fence waits here: so a stale one comes before it, or fails, never
-- after. Those under one fence do not wait for each other.
--
-- The row's lock decides, under every isolation level. The advisory lock before it is
-- there for its queue: of a row, those that share it let more sharers in past one who
-- waits to change it, and a deposed leader could keep its successor out for ever.
CREATE OR REPLACE FUNCTION @schema@.admit(scope text, fence bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  turn  CONSTANT bigint := hashtextextended('@name@/' || scope, 0);
  seen  bigint;
BEGIN
  IF scope IS NULL OR octet_length(scope) > 256 OR scope !~ '^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,7}$' THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = 'no scope: want the id of the scope whose leader writes, up to 8 names joined by /';
  ELSIF fence IS NULL OR fence <= 0 OR fence >= 9007199254740992 THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('no fence for "%s": want that of the leader that writes, 1 to 9007199254740991', scope);
  END IF;
  SELECT m.fence INTO seen FROM mark m WHERE m.scope = admit.scope;
  IF seen = admit.fence THEN
    PERFORM pg_advisory_xact_lock_shared(turn);
  ELSIF seen IS NULL OR seen < admit.fence THEN
    PERFORM pg_advisory_xact_lock(turn);
  END IF;
  LOOP
    SELECT m.fence INTO seen FROM mark m WHERE m.scope = admit.scope;
    IF seen IS NULL THEN
      INSERT INTO mark VALUES (admit.scope, admit.fence) ON CONFLICT DO NOTHING;
    ELSIF seen < admit.fence THEN
      UPDATE mark m SET fence = admit.fence WHERE m.scope = admit.scope AND m.fence < admit.fence;
    ELSIF seen = admit.fence THEN
      PERFORM FROM mark m WHERE m.scope = admit.scope AND m.fence = admit.fence FOR SHARE;
    ELSE
      RAISE EXCEPTION USING ERRCODE = 'LD003',
        MESSAGE = format('stale leader of "%s": fence %s, at least %s is required', scope, fence, seen),
        HINT = 'another leads the scope by now: stop acting for it';
    END IF;
    EXIT WHEN FOUND; -- else another transaction was faster: look again
  END LOOP;
END $$;

-- keep raises marks without an effect: a JSON object of scopes and fences.
CREATE OR REPLACE FUNCTION @schema@.keep(marks json) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
  INSERT INTO mark AS m SELECT j.key, j.value::bigint FROM json_each_text(marks) AS j ORDER BY j.key
    ON CONFLICT (scope) DO UPDATE SET fence = greatest(m.fence, excluded.fence)
$$;

-- fenced is the trigger that guard puts on a table. Its arguments say where scope and
-- fence are found: scope=ID, scope_column=NAME, fence_column=NAME. What is not said
-- comes from the transaction's settings leadership.scope and leadership.fence; a fence
-- that is set there takes precedence over the column.
CREATE OR REPLACE FUNCTION @schema@.fenced() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  caller        CONSTANT text := nullif(current_setting('leadership.scope', true), '');
  fence         text := nullif(current_setting('leadership.fence', true), '');
  scope         text := caller;
  scope_column  text;
  fence_column  text;
  argument      text;
  before        text;
BEGIN
  FOR i IN 0 .. TG_NARGS - 1 LOOP
    argument := TG_ARGV[i];
    CASE split_part(argument, '=', 1)
      WHEN 'scope' THEN scope := substr(argument, 7);
      WHEN 'scope_column' THEN scope_column := substr(argument, 14);
      WHEN 'fence_column' THEN fence_column := substr(argument, 14);
      ELSE RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('trigger argument "%s": want scope=, scope_column= or fence_column=', argument);
    END CASE;
  END LOOP;
  IF TG_LEVEL = 'ROW' AND scope_column IS NOT NULL THEN
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
      EXECUTE format('SELECT ($1).%I::text', scope_column) INTO scope USING OLD;
      before := scope;
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
      EXECUTE format('SELECT ($1).%I::text', scope_column) INTO scope USING NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND before IS DISTINCT FROM scope THEN
      RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('a row of "%s" cannot move from scope to scope: delete and insert it', TG_TABLE_NAME);
    END IF;
  END IF;
  IF TG_LEVEL = 'STATEMENT' AND scope_column IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('%s on "%s", which holds rows of every scope: delete those of one', TG_OP, TG_TABLE_NAME);
  END IF;
  -- The fence of one scope means nothing in another.
  IF caller IS NOT NULL AND caller IS DISTINCT FROM scope THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('%s on "%s": a leader of "%s" may not act on "%s"', TG_OP, TG_TABLE_NAME, caller, scope);
  END IF;
  -- A row that is deleted holds the fence of who wrote it, not of who deletes it.
  IF fence IS NULL AND fence_column IS NOT NULL AND TG_OP IN ('INSERT', 'UPDATE') THEN
    EXECUTE format('SELECT ($1).%I::text', fence_column) INTO fence USING NEW;
  END IF;
  IF fence IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('%s on "%s" without a fence', TG_OP, TG_TABLE_NAME),
      HINT = 'SELECT set_config(''leadership.fence'', ''<the fence of the leader that writes>'', true)';
  END IF;
  PERFORM admit(scope, fence::bigint);
  IF TG_LEVEL = 'STATEMENT' THEN
    RETURN NULL;
  ELSIF TG_OP = 'DELETE' THEN
    RETURN OLD;
  END IF;
  RETURN NEW;
END $$;

-- guard puts the trigger on a table, for its owner.
CREATE OR REPLACE FUNCTION @schema@.guard(target regclass, scope text DEFAULT NULL, scope_column name DEFAULT NULL, fence_column name DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  wanted     name;
  arguments  text;
BEGIN
  IF scope IS NOT NULL AND scope_column IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = 'scope and scope_column are both given: want one of them, or neither';
  END IF;
  FOREACH wanted IN ARRAY array_remove(ARRAY[scope_column, fence_column], NULL) LOOP
    IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND a.attname = wanted AND a.attnum > 0 AND NOT a.attisdropped) THEN
      RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('%s has no column "%s"', target, wanted);
    END IF;
  END LOOP;
  SELECT coalesce(string_agg(quote_literal(a), ', '), '') INTO arguments FROM unnest(ARRAY[
    'scope=' || scope, 'scope_column=' || scope_column, 'fence_column=' || fence_column]) AS a WHERE a IS NOT NULL;
  EXECUTE format('CREATE OR REPLACE TRIGGER leadership_fenced BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION @schema@.fenced(%s)', target, arguments);
  EXECUTE format('CREATE OR REPLACE TRIGGER leadership_fenced_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION @schema@.fenced(%s)', target, arguments);
END $$;

-- Who may raise a mark may lock leaders out: grant it by name.
REVOKE ALL ON FUNCTION @schema@.admit, @schema@.keep FROM PUBLIC;
