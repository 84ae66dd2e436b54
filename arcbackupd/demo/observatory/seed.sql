-- Fill the observatory: about `seed.rows` rows of photometry, a third as many
-- observations, and a hundredth as many targets. Adds to what is there, so it
-- may run again. 300,000 rows unless `SET seed.rows = N` went before.
CREATE TEMPORARY TABLE seed_plan AS
SELECT
    coalesce(nullif(current_setting('seed.rows', true), ''), '300000')::bigint AS photometry,
    (SELECT coalesce(max(id), 0) FROM targets_target) AS targets_before,
    (SELECT coalesce(max(id), 0) FROM observations_observation) AS observations_before;

INSERT INTO targets_target
    (name, right_ascension, declination, object_class, aliases, priority)
SELECT
    'ARC J' || lpad((targets_before + n)::text, 8, '0'),
    random() * 360,
    random() * 180 - 90,
    (ARRAY['star', 'galaxy', 'asteroid', 'variable', 'transient'])[1 + n % 5],
    jsonb_build_array('HD ' || n, 'é Ori ' || n),
    1 + n % 5
FROM seed_plan, generate_series(1, greatest(photometry / 100, 1)) AS n;

INSERT INTO observations_observation
    (target_id, started_at, exposure_seconds, band, header, airmass)
SELECT
    targets_before + 1 + n % greatest(photometry / 100, 1),
    timestamptz '2024-01-01 20:00:00+00' + n * interval '90 seconds',
    30 + n % 270,
    (ARRAY['U', 'B', 'V', 'R', 'I'])[1 + n % 5],
    jsonb_build_object(
        'OBJECT', 'ARC ' || n, 'AIRMASS', round((1 + random())::numeric, 3), 'GAIN', 1.2,
        'CCD-TEMP', -20, 'TELESCOP', E'0.5 m "Ritchey\\Chrétien"', 'OBSID', md5(n::text)
    ),
    1 + random()
FROM seed_plan, generate_series(1, greatest(photometry / 3, 1)) AS n;

INSERT INTO observations_photometry
    (observation_id, aperture_pixels, magnitude, uncertainty, note)
SELECT
    observations_before + 1 + n % greatest(photometry / 3, 1),
    (ARRAY[3, 5, 8])[1 + n % 3],
    8 + random() * 12,
    random() / 20,
    CASE WHEN n % 50 = 0 THEN E'cloud\tpassing\nat ' || n ELSE '' END
FROM seed_plan, generate_series(1, photometry) AS n;

DROP TABLE seed_plan;
