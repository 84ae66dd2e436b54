from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Target",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
                ("right_ascension", models.FloatField()),
                ("declination", models.FloatField()),
                ("object_class", models.CharField(default="star", max_length=40)),
                ("aliases", models.JSONField(default=list)),
            ],
        ),
    ]
