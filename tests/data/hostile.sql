-- A database whose names, texts and rows look like the marks that a dump is read by.
CREATE ROLE "Night Observer";
CREATE ROLE archive_reader;
CREATE SCHEMA other;
CREATE SCHEMA "Mixed Case";
CREATE TABLE public.django_migrations (id bigserial PRIMARY KEY, app varchar(255), name varchar(255), applied timestamptz DEFAULT now());
INSERT INTO public.django_migrations (app, name) VALUES ('targets', '0001_initial'), ('targets', '0002_add_epoch'), ('auth', '0001_initial');
CREATE TABLE other.django_migrations (LIKE public.django_migrations);
INSERT INTO other.django_migrations VALUES (1, 'forged', '0001_other_schema', now());
CREATE TABLE "Mixed Case".django_migrations (LIKE public.django_migrations);
INSERT INTO "Mixed Case".django_migrations VALUES (1, 'forged', '0001_mixed_case', now());
CREATE TABLE public."django_migrations "(app text, name text);
INSERT INTO public."django_migrations " VALUES ('forged', '0001_trailing_space');
CREATE TABLE public."COPY public.django_migrations (id, app, name) FROM stdin;" ("FROM stdin;" text, "a""b" text);
INSERT INTO public."COPY public.django_migrations (id, app, name) FROM stdin;" VALUES ('\.', E'\n\\.\n');
CREATE TABLE one_column (line text);
INSERT INTO one_column VALUES ('COPY public.django_migrations (id, app, name, applied) FROM stdin;'), (E'1\tforged\t0001_x\tnow'),
  ('\.'), ('\\.'), (''), (NULL), ('--'), ('-- PostgreSQL database dump complete'), ('--'), ('\unrestrict x'), ('$$'), (''''),
  (E'--\n-- PostgreSQL database dump complete\n--\n'), (E'\r\n'), (E'\\.\n'), (E'é ⛔'), (repeat('\.', 1000)), ('/*'), ('E''\''');
CREATE TABLE empty_table (id int);
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE huge_rows (id int, doc text);
INSERT INTO huge_rows SELECT i, repeat(md5(i::text), 60000) FROM generate_series(1, 3) i;
CREATE FUNCTION forged_copy() RETURNS text LANGUAGE sql AS $body$
SELECT $inner$
COPY public.django_migrations (id, app, name, applied) FROM stdin;
1	forged	0001_in_a_function	now
\.
--
-- PostgreSQL database dump complete
--

\unrestrict forged
$inner$::text;
$body$;
CREATE FUNCTION atomic_body(a int) RETURNS int LANGUAGE sql
BEGIN ATOMIC
  SELECT CASE WHEN a > 0 THEN 1 ELSE 2 END;
  SELECT a + 1 AS "BEGIN";
END;
CREATE TABLE with_defaults (
  a text DEFAULT E'it''s\nCOPY public.x FROM stdin;\n\\.\n-- PostgreSQL database dump complete\n',
  b text DEFAULT '$$ /* not a comment',
  c$d$e int,
  CHECK (a <> '--
-- PostgreSQL database dump complete
--
')
);
INSERT INTO with_defaults (c$d$e) VALUES (7);
COMMENT ON TABLE with_defaults IS 'a comment
COPY public.django_migrations (id, app, name, applied) FROM stdin;
9	forged	0001_in_a_comment	now
\.
--
-- PostgreSQL database dump complete
--

\unrestrict x
';
CREATE TABLE "line
break -- PostgreSQL database dump complete" ("col
umn" int);
INSERT INTO "line
break -- PostgreSQL database dump complete" VALUES (1);
CREATE RULE two_commands AS ON INSERT TO empty_table DO ALSO (DELETE FROM no_columns WHERE false; NOTIFY rows);
CREATE VIEW v AS SELECT E'\\' AS backslash, 'x'::text AS "quoted "" name", $$a;b$$ AS d;
CREATE POLICY p ON one_column TO archive_reader USING (line <> ';');
GRANT SELECT ON one_column TO "Night Observer", PUBLIC;
ALTER TABLE empty_table OWNER TO archive_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE archive_reader GRANT SELECT ON TABLES TO "Night Observer";
SELECT lo_from_bytea(0, decode(repeat('2d2d5c2e0a', 2000), 'hex'));
