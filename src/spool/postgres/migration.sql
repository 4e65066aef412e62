-- The spool of suki-relay, version {known}: makes its tables, or brings older ones to this version. Where they
-- are of it already, it changes nothing. Who runs it owns them. A relay that connects as another role needs:
--   GRANT USAGE ON SCHEMA {schema} TO ...;
--   GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO ...;
BEGIN;
SET LOCAL synchronous_commit = on;
SELECT pg_advisory_xact_lock(hashtextextended('suki-relay {schema}', 0));
DO $migration$
DECLARE found integer := 0;
BEGIN
IF to_regnamespace('{schema}') IS NULL THEN CREATE SCHEMA "{schema}"; END IF;
SET LOCAL search_path = "{schema}";
IF EXISTS (SELECT FROM pg_class
           WHERE relnamespace = to_regnamespace('{schema}') AND relkind IN ('r', 'p', 'v', 'm', 'f')) THEN
    -- An error here: the schema holds something else.
    SELECT version INTO STRICT found FROM format WHERE application = 'suki-relay';
END IF;
IF found > {known} THEN
    RAISE 'the schema {schema} was made by a newer suki-relay (version %)', found;
END IF;
{steps}
END $migration$;
COMMIT;
