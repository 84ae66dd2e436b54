import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("observations", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Photometry",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("aperture_pixels", models.FloatField()),
                ("magnitude", models.FloatField()),
                ("uncertainty", models.FloatField()),
                ("note", models.TextField(default="")),
                (
                    "observation",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="observations.observation"),
                ),
            ],
        ),
    ]
