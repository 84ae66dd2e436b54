from django.db import migrations, models


def take_airmass_from_header(_apps, schema_editor):
    """Fill the new column from the FITS headers, in the database itself."""
    schema_editor.execute("UPDATE observations_observation SET airmass = (header->>'AIRMASS')::float")


class Migration(migrations.Migration):
    dependencies = [("observations", "0002_photometry")]

    operations = [
        migrations.AddField("Observation", "airmass", models.FloatField(null=True)),
        migrations.RunPython(take_airmass_from_header, migrations.RunPython.noop),
    ]
