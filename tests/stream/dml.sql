INSERT INTO scalars VALUES
 (1, true, -32768, 9223372036854775807, 'NaN', '-Infinity', 'NaN', 1.005, '$1,234.56', E'tab\t\\ "q" ''s'' ü', 'v', 'ab', 'x', 'a name', '\x00ff', '4713-01-01 BC', '24:00', '23:59:59.999999+14', '2024-02-29'::timestamp - interval '1 day',
  'infinity', '1 year -2 mons 3 days -04:05:06.789', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a" : 1, "a":2}', '{"a": [1,null]}', '<a>&lt;</a>', B'10101', B'1', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
  '(1,2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),1>', 'a:1A b', 'a & !b', '16/B374D848', 4294967295, 'postgres=r/postgres');
INSERT INTO scalars (id) VALUES (2), (3);
INSERT INTO scalars (id, f8, f4, n, d, ts, tstz, iv, t, c, by) VALUES
 (4, 0.1::float8 + 0.2, '-0', 'Infinity', 'infinity', '-infinity', '0001-01-01 00:00 BC', '-178000000 years', '', '', ''),
 (5, 1e-320, 3.4e38, -0.0000000000000000000000000000000000000000000001, 'today', now(), now(), '00:00:00.000001', repeat('long ', 10000), 'ab   ', decode(repeat('00ff', 5000), 'hex')),
 (6, '-0', 1, 10 ^ 100, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE scalars SET t = 'changed', n = n WHERE id IN (1, 5);
UPDATE scalars SET ch = '', nm = 'x', tq = NULL, j = '[]', acl = 'postgres=w/postgres' WHERE id > 1;
INSERT INTO kinds VALUES
 (1, 'happy "so"', 5, '{a,"b c",NULL}', '(1,"x y")', ROW(ROW(2, 'in'), 'ok', '{1,2}'), '(3,)', '[1,5)', '(,3.5]', '[2024-01-01,)', '[0.5,1.5]', '{[1,2),[5,9)}', '{[0.1,0.2]}', 'CiText', 'a=>1, b=>NULL'),
 (2, 'sad', 1, '{}', NULL, NULL, NULL, 'empty', NULL, NULL, 'empty', '{}', NULL, '', '');
INSERT INTO kinds (id, e) SELECT n, (ARRAY['sad', 'ok'])[1 + n % 2]::mood FROM generate_series(10, 60) n;
UPDATE kinds SET e = 'ok', p = ROW(id, 'row ' || id), ct = 'T' || id, sp = span(id, id + 1), d = id WHERE id >= 10;
UPDATE kinds SET ne = ROW(ROW(id, NULL), 'sad', ARRAY[id]) WHERE id % 7 = 0;
INSERT INTO arrays VALUES
 (1, '{1,2,NULL}', '{{1,2},{3,4}}', '{"a,b","c\"d",NULL,""}', '{sad,"happy \"so\""}', '{1,2}', ARRAY[ROW(1,'a')::pair, NULL], '{"[1,2)",empty}', '{1.50,NaN}', '{}', '{A,a}'),
 (2, '[0:2]={7,8,9}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO arrays (id, a, t) SELECT n, ARRAY[n, n + 1], ARRAY['x' || n] FROM generate_series(10, 200) n;
UPDATE arrays SET a = a || 5, a2 = ARRAY[[id, 1], [2, 3]] WHERE id > 20;
DELETE FROM arrays WHERE id > 150;
INSERT INTO "My Schema"."Odd ""Table" SELECT n, 'v' || n, 'ü' FROM generate_series(1, 20) n;
UPDATE "My Schema"."Odd ""Table" SET "select" = "ümlaut" WHERE "Id of" % 2 = 0;
INSERT INTO big SELECT n, repeat(md5(n::text), 400), 0, repeat('z', 6000) FROM generate_series(1, 30) n;
UPDATE big SET other = other + 1;
UPDATE big SET other = other + 1, large2 = 'short' WHERE id % 2 = 0;
UPDATE big SET large = large || 'x' WHERE id % 3 = 0;
UPDATE big SET id = id + 1000 WHERE id % 5 = 0;
BEGIN; INSERT INTO big VALUES (500, repeat('q', 9000), 1, NULL); UPDATE big SET other = 2 WHERE id = 500; UPDATE big SET large2 = repeat('w', 9000) WHERE id = 500; UPDATE big SET other = 3 WHERE id = 500; COMMIT;
INSERT INTO big_key VALUES (repeat('k', 2500), 1, 1), (repeat('m', 2500), 1, 1);
UPDATE big_key SET v = 2;
UPDATE big_key SET n = 5 WHERE id LIKE 'k%';
DELETE FROM big_key WHERE id LIKE 'm%';
INSERT INTO big_full SELECT n % 4, repeat('f', 9000), n FROM generate_series(1, 12) n;
UPDATE big_full SET other = other + 100 WHERE id = 1;
DELETE FROM big_full WHERE id = 2 AND other < 7;
INSERT INTO gen (a, b) SELECT n, 'b' FROM generate_series(1, 50) n;
UPDATE gen SET a = a + 1, b = NULL WHERE id % 2 = 0;
UPDATE gen SET id = DEFAULT WHERE id = 7;
DELETE FROM gen WHERE id = 9;
INSERT INTO gen_outside (id, t, large) SELECT n, 't', repeat('l', 7000) FROM generate_series(1, 20) n;
UPDATE gen_outside SET t = 'u' WHERE id > 10;
UPDATE gen_outside SET n = DEFAULT WHERE id = 3;
UPDATE gen_outside SET id = 300 WHERE id = 4;
INSERT INTO by_default (a) SELECT n FROM generate_series(1, 10) n;
UPDATE by_default SET id = id + 100, a = -a WHERE id > 5;
INSERT INTO two_keys SELECT n % 10, (ARRAY['sad', 'ok', 'happy "so"'])[1 + n / 10]::mood, n FROM generate_series(0, 29) n;
UPDATE two_keys SET v = v + 1 WHERE a > 4;
UPDATE two_keys SET b = 'sad', a = a + 100 WHERE b = 'ok';
DELETE FROM two_keys WHERE a = 3;
INSERT INTO by_citext VALUES ('Abc', 1), ('x', 1); UPDATE by_citext SET v = 2 WHERE k = 'ABC'; UPDATE by_citext SET k = 'ABC' WHERE k = 'abc'; UPDATE by_citext SET v = 3; DELETE FROM by_citext WHERE k = 'X';
INSERT INTO by_numeric VALUES (1.0, 1), (2, 1), ('NaN', 1); UPDATE by_numeric SET v = 2; UPDATE by_numeric SET k = 1.00 WHERE k = 1; UPDATE by_numeric SET v = 3; DELETE FROM by_numeric WHERE k = 2;
BEGIN; DELETE FROM by_numeric WHERE k = 1; INSERT INTO by_numeric VALUES (1.000, 9); COMMIT;
INSERT INTO by_char VALUES ('a', 1), ('b', 1); UPDATE by_char SET v = 2 WHERE k = 'a'; DELETE FROM by_char WHERE k = 'b';
INSERT INTO by_domain SELECT n, n FROM generate_series(1, 20) n; UPDATE by_domain SET v = 0 WHERE k > 10; DELETE FROM by_domain WHERE k = 5;
INSERT INTO by_composite SELECT ROW(n, 'k')::pair, n FROM generate_series(1, 20) n; UPDATE by_composite SET v = 0 WHERE (k).a > 10; DELETE FROM by_composite WHERE (k).a = 5;
INSERT INTO by_array SELECT ARRAY[n, 1], n FROM generate_series(1, 20) n; UPDATE by_array SET v = 0 WHERE k[1] > 10; DELETE FROM by_array WHERE k[1] = 5;
INSERT INTO by_index SELECT n, 'c' || n, n FROM generate_series(1, 20) n; UPDATE by_index SET v = -v WHERE id < 10; UPDATE by_index SET code = 'new' || id WHERE id = 3; DELETE FROM by_index WHERE id = 4;
INSERT INTO full_dup SELECT 1, NULL, '{"a": 1}', '(1,2)', '<x/>', '-0', 1.0, 'ok', '{1,2}', 'C' FROM generate_series(1, 4);
INSERT INTO full_dup SELECT 1, NULL, '{"a": 1}', '(1,2)', '<x/>', '0', 1.00, 'ok', '{1,2}', 'c' FROM generate_series(1, 3);
INSERT INTO full_dup (b) VALUES ('x'), (NULL), (NULL);
DELETE FROM full_dup WHERE ctid = (SELECT max(ctid) FROM full_dup WHERE a = 1);
UPDATE full_dup SET b = 'one of many' WHERE ctid = (SELECT min(ctid) FROM full_dup WHERE a = 1);
UPDATE full_dup SET j = '[1]' WHERE a IS NULL AND b IS NULL AND ctid = (SELECT min(ctid) FROM full_dup WHERE a IS NULL AND b IS NULL);
INSERT INTO full_key SELECT n, 'x' FROM generate_series(1, 20) n; UPDATE full_key SET b = NULL WHERE id > 5; UPDATE full_key SET id = id + 50 WHERE id > 10; DELETE FROM full_key WHERE id = 2;
INSERT INTO full_always (t) SELECT 'x' FROM generate_series(1, 5); UPDATE full_always SET t = 'y' WHERE n = 2; UPDATE full_always SET n = DEFAULT WHERE n = 3; DELETE FROM full_always WHERE n = 4;
INSERT INTO only_inserts SELECT n, 'x' FROM generate_series(1, 20) n;
INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO dropped SELECT n, 'x' FROM generate_series(1, 20) n; UPDATE dropped SET v = 'y' WHERE id > 10;
INSERT INTO places SELECT n, n, n, int4range(n * 10, n * 10 + 10) FROM generate_series(1, 20) n;
UPDATE places SET position = 21 - position;
UPDATE places SET rank = rank + 100;
UPDATE places SET rank = -1 WHERE id = 1; UPDATE places SET rank = 101 WHERE id = 2; UPDATE places SET rank = 102 WHERE id = 1;
BEGIN; UPDATE places SET span = NULL WHERE id = 3; UPDATE places SET span = '[30,40)' WHERE id = 4; UPDATE places SET span = '[40,50)' WHERE id = 3; COMMIT;
BEGIN; DELETE FROM places WHERE id = 9; INSERT INTO places VALUES (900, 12, 109, '[90,100)'); COMMIT;
INSERT INTO parent SELECT n, n FROM generate_series(1, 20) n;
INSERT INTO child VALUES (2, 1, 3), (3, 2, 2), (4, 5, NULL), (5, 5, 4);
DELETE FROM parent WHERE id = 5;
UPDATE parent SET v = 0 WHERE id < 5;
INSERT INTO parts SELECT n, '2024-06-01', 'p' FROM generate_series(1, 20) n;
UPDATE parts SET at = '2025-06-01' WHERE id % 2 = 0;
UPDATE parts SET v = 'q' WHERE id % 3 = 0;
INSERT INTO inherited_base SELECT n, 1 FROM generate_series(1, 5) n;
INSERT INTO inherited_leaf SELECT n, 1, 1 FROM generate_series(3, 8) n;
UPDATE inherited_base SET v = v + 1 WHERE id IN (3, 4); DELETE FROM ONLY inherited_base WHERE id = 5;
INSERT INTO trig SELECT n, 'w' FROM generate_series(1, 10) n; UPDATE trig SET what = 'z' WHERE id = 3;
INSERT INTO trig_always SELECT n, 'w' FROM generate_series(1, 10) n;
INSERT INTO rulers VALUES (1, 99), (2, 1); UPDATE rulers SET v = 99; UPDATE rulers SET v = 5 WHERE id = 2; DELETE FROM rulers WHERE id = 2;
INSERT INTO secured VALUES (1, 1), (2, 2); UPDATE secured SET v = 3 WHERE id = 1; DELETE FROM secured WHERE id = 2;
BEGIN; INSERT INTO parent VALUES (50, 50); SAVEPOINT s; INSERT INTO parent VALUES (51, 51); ROLLBACK TO s; INSERT INTO parent VALUES (52, 52); COMMIT;
BEGIN; INSERT INTO parent VALUES (60, 60); ROLLBACK;
BEGIN; INSERT INTO parent VALUES (70, 70); PREPARE TRANSACTION 'two';
COMMIT PREPARED 'two';
