"""The observatory's data: headers of FITS files, coordinates, photometry, made on the server.

Digits are random, so that a dump compresses as a real one does. Arcsecond's interface has data files, datasets and
calibrations; a table named so comes before `django_migrations` in a dump. The headers are in one here, and the
photometry comes after: it matters to whoever reads a dump up to the migrations only.
"""

from __future__ import annotations

from tests.harness.stack import ArcsecondStack

PHOTOMETRY = 14
"""Rows of photometry for each observation."""

BYTES = 1_890
"""Bytes of SQL for each observation, with its data file and photometry, as measured."""

TABLES = ("datafiles_datafile", "observations_photometry", "observations_observation", "targets_target")

_CREATE = """
CREATE TABLE IF NOT EXISTS datafiles_datafile (
    id bigserial PRIMARY KEY,
    observation_id bigint NOT NULL REFERENCES observations_observation (id),
    path text NOT NULL,
    created timestamptz NOT NULL,
    ra double precision NOT NULL,
    dec double precision NOT NULL,
    header jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS datafiles_datafile_created ON datafiles_datafile (created);
CREATE INDEX IF NOT EXISTS datafiles_datafile_observation ON datafiles_datafile (observation_id);
"""

_SEED = """
SET synchronous_commit = off;
SET session_replication_role = replica;  -- no trigger for each row's foreign keys
SELECT setseed(0.42);

INSERT INTO targets_target (name, right_ascension, declination, object_class, aliases, priority)
SELECT 'ARC J' || lpad(n::text, 8, '0'), random() * 360, random() * 180 - 90,
    (ARRAY['star', 'galaxy', 'asteroid', 'variable', 'transient'])[1 + n % 5],
    jsonb_build_array('HD ' || (random() * 359083)::int, 'Gaia DR3 ' || (random() * 6e18)::bigint), 1 + n % 5
FROM generate_series(1, {targets}) AS n;

INSERT INTO observations_observation (target_id, started_at, exposure_seconds, band, header, airmass)
SELECT 1 + (random() * ({targets} - 1))::int,
    timestamptz '2020-01-01 20:00:00+00' + n * interval '47 seconds' + random() * interval '9 seconds',
    30 + (random() * 270)::int, (ARRAY['U', 'B', 'V', 'R', 'I'])[1 + n % 5],
    jsonb_build_object('OBSID', gen_random_uuid(), 'NIGHT', n / 300), 1 + random()
FROM generate_series(1, {observations}) AS n;

INSERT INTO datafiles_datafile (observation_id, path, created, ra, dec, header)
SELECT n, format('2026/%s/%s/arc-%s-%s.fits', n / 300, (ARRAY['U', 'B', 'V', 'R', 'I'])[1 + n % 5], n,
        (random() * 1e6)::int),
    timestamptz '2020-01-01 20:00:00+00' + n * interval '47 seconds' + random() * interval '47 seconds',
    random() * 360, random() * 180 - 90,
    jsonb_build_object(
        'SIMPLE', true, 'BITPIX', 16, 'NAXIS', 2, 'NAXIS1', 4096, 'NAXIS2', 4096, 'BZERO', 32768,
        'BSCALE', 1,
        'OBJECT', 'ARC J' || lpad((random() * {targets})::int::text, 8, '0'), 'OBSERVER', 'Dome ' || n % 4,
        'TELESCOP', '0.5 m "Ritchey-Chretien"', 'INSTRUME', 'CCD' || n % 3, 'IMAGETYP', 'Light Frame',
        'FILTER', (ARRAY['U', 'B', 'V', 'R', 'I'])[1 + n % 5], 'EXPTIME', 30 + (random() * 270)::int,
        'DATE-OBS', timestamp '2020-01-01 20:00:00' + n * interval '47 seconds' + random() * interval '9 seconds',
        'MJD-OBS', 58849.83 + n * 0.000543981 + random() / 1000, 'AIRMASS', 1 + random(),
        'CCD-TEMP', -20 + random(), 'GAIN', 1.2, 'RDNOISE', 4 + random(),
        'FOCUSPOS', 20000 + (random() * 5000)::int,
        'CRVAL1', random() * 360, 'CRVAL2', random() * 180 - 90, 'CRPIX1', 2048 + random(),
        'CRPIX2', 2048 + random(),
        'CD1_1', random() / 1000, 'CD1_2', random() / 100000, 'CD2_1', random() / 100000, 'CD2_2', random() / 1000,
        'FWHM', 1 + random() * 4, 'SKYLEVEL', random() * 900, 'SKYSIGMA', random() * 30,
        'ZEROPT', 20 + random() * 5, 'CHECKSUM', substr(md5(random()::text), 1, 16),
        'COMMENT',
            (ARRAY['clear', 'thin cirrus', 'wind from the west', 'moon', ''])[1 + (random() * 4)::int])
FROM generate_series(1, {observations}) AS n;

INSERT INTO observations_photometry (observation_id, aperture_pixels, magnitude, uncertainty, note)
SELECT 1 + n % {observations}, (ARRAY[3, 5, 8])[1 + n % 3], 8 + random() * 12, random() / 20,
    CASE WHEN n % 50 = 0 THEN E'cloud\\tpassing\\nat ' || n ELSE '' END
FROM generate_series(1, {photometry}) AS n;
"""


def fill(stack: ArcsecondStack, size: int) -> int:
    """Replace the data by new ones of about `size` bytes of SQL, and return how many bytes pg_dump writes."""
    observations = max(size // BYTES, 10)
    rows = {
        "observations": observations,
        "targets": max(observations // 30, 2),
        "photometry": observations * PHOTOMETRY,
    }
    stack.psql(_CREATE + f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY;")
    stack.psql(_SEED.format(**rows), timeout=3600)
    # Else autovacuum does it a minute later, in the middle of a measurement.
    stack.psql("VACUUM (ANALYZE)", timeout=3600)
    return length(stack)


def length(stack: ArcsecondStack) -> int:
    """Return how many bytes of SQL pg_dump writes of the database."""
    script = f"set -o pipefail; pg_dump -U {stack.user} -d {stack.db} | wc -c"
    return int(stack.pg(["bash", "-c", script], timeout=3600).stdout)


def fingerprint(stack: ArcsecondStack) -> str:
    """Return what tells whether all rows are there."""
    return stack.psql("; ".join(f"SELECT '{name}', count(*), sum(id) FROM {name}" for name in TABLES), timeout=3600)
