-- The roles of one schema, to be run once by an administrator of the server, in the
-- database of the log. None can log in: grant them to those who do, e.g.
--   CREATE ROLE leaderd LOGIN PASSWORD '...' IN ROLE @name@_runtime;
--   @name@_owner    owns everything: needed to migrate, not to run
--   @name@_runtime  may make the calls of leaderd, and nothing else
--   @name@_reader   may read who leads what, and the audit trail
--   @name@_app      may ask the fence guard, and put it on tables of its own
DO $do$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['owner', 'runtime', 'reader', 'app'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '@name@_' || r) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', '@name@_' || r);
    END IF;
  END LOOP;
END $do$;
CREATE SCHEMA IF NOT EXISTS @schema@ AUTHORIZATION @name@_owner;
GRANT USAGE ON SCHEMA @schema@ TO @name@_runtime, @name@_reader, @name@_app;
