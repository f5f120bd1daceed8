-- What each role may do; run after every migration. A role that does not exist is
-- passed over: roles.sql makes them.
REVOKE ALL ON SCHEMA @schema@ FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @schema@ FROM PUBLIC;
DO $do$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '@name@_runtime') THEN
    GRANT USAGE ON SCHEMA @schema@ TO @name@_runtime;
    GRANT SELECT ON @schema@.migration TO @name@_runtime;
    GRANT EXECUTE ON FUNCTION @schema@.log_append, @schema@.log_confirm, @schema@.log_fetch, @schema@.log_publish,
      @schema@.log_upload, @schema@.log_checkpoint, @schema@.log_trim, @schema@.log_attest, @schema@.log_close,
      @schema@.log_replace, @schema@.log_trail TO @name@_runtime;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '@name@_reader') THEN
    GRANT USAGE ON SCHEMA @schema@ TO @name@_reader;
    GRANT SELECT ON @schema@.leaders, @schema@.audit, @schema@.applied TO @name@_reader;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '@name@_app') THEN
    GRANT USAGE ON SCHEMA @schema@ TO @name@_app;
    GRANT EXECUTE ON FUNCTION @schema@.admit, @schema@.fenced, @schema@.guard TO @name@_app;
  END IF;
END $do$;
