-- The guard for tables of other applications in this database.

-- The highest fence that was admitted for a scope. It is never lowered, and stays
-- when the scope is retired.
CREATE TABLE mark (
  scope  text   PRIMARY KEY,
  fence  bigint NOT NULL CHECK (fence > 0)
) WITH (fillfactor = 70);

-- admit lets the transaction of a scope's leader go on, or raises LD003 when its
-- fence was overtaken, LD004 when there is none. Until the transaction ends, none
-- with a higher fence is admitted for the scope: it waits. So a stale one comes
-- before, or fails; never after. Those under one fence do not wait for each other.
CREATE FUNCTION admit(scope text, fence bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  seen  bigint;
  led   bigint;
BEGIN
  IF scope IS NULL OR scope = '' OR octet_length(scope) > 256 THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = 'no scope: want the id of the scope whose leader writes, 1 to 256 bytes';
  ELSIF fence IS NULL OR fence <= 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('no fence for "%s": want the fence of the leader that writes, 1 or more', scope);
  END IF;
  LOOP
    SELECT m.fence INTO seen FROM mark m WHERE m.scope = admit.scope;
    IF seen IS NULL THEN
      INSERT INTO mark VALUES (admit.scope, admit.fence) ON CONFLICT DO NOTHING;
    ELSIF seen < admit.fence THEN
      UPDATE mark m SET fence = admit.fence WHERE m.scope = admit.scope AND m.fence < admit.fence;
    ELSIF seen = admit.fence THEN
      PERFORM FROM mark m WHERE m.scope = admit.scope AND m.fence = admit.fence FOR SHARE;
    END IF;
    EXIT WHEN FOUND OR seen > admit.fence;
  END LOOP;
  SELECT l.fence INTO led FROM leaders l WHERE l.scope = admit.scope;
  IF admit.fence < greatest(seen, led) THEN
    RAISE EXCEPTION USING ERRCODE = 'LD003',
      MESSAGE = format('stale leader of "%s": fence %s, at least %s is required', scope, fence, greatest(seen, led)),
      HINT = 'another leads the scope by now: stop acting for it';
  END IF;
END $$;

-- fenced is the trigger. Its arguments say where scope and fence are found:
-- 'scope=ID', 'scope_column=NAME', 'fence_column=NAME'. What is not said comes from the
-- settings @name@.scope and @name@.fence of the transaction; a fence that is set
-- there takes precedence over the column. It runs with the rights of who writes, who
-- needs those to call admit and nothing else.
CREATE FUNCTION fenced() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  scope         text := nullif(current_setting('@name@.scope', true), '');
  fence         text := nullif(current_setting('@name@.fence', true), '');
  scope_column  text;
  fence_column  text;
  argument      text;
  column_of     text;
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
    column_of := format('SELECT ($1).%I::text', scope_column);
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
      EXECUTE column_of INTO scope USING OLD;
      before := scope;
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
      EXECUTE column_of INTO scope USING NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND before IS DISTINCT FROM scope THEN
      RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('a row of "%s" cannot move from scope to scope: delete and insert it', TG_TABLE_NAME);
    END IF;
  END IF;
  -- A row that is deleted holds the fence of who wrote it, not of who deletes it.
  IF fence IS NULL AND fence_column IS NOT NULL AND TG_OP IN ('INSERT', 'UPDATE') THEN
    EXECUTE format('SELECT ($1).%I::text', fence_column) INTO fence USING NEW;
  END IF;
  IF fence IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'LD004', MESSAGE = format('%s on "%s" without a fence', TG_OP, TG_TABLE_NAME),
      HINT = 'SET LOCAL @name@.fence = ''<the fence of the leader that writes>''';
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
CREATE FUNCTION guard(target regclass, scope text DEFAULT NULL, scope_column name DEFAULT NULL, fence_column name DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, @schema@, pg_temp AS $$
DECLARE
  wanted     name;
  arguments  text := '';
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
