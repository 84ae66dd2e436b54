from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("targets", "0002_priority")]

    operations = [
        migrations.AlterField(
            "Target", "object_class", models.CharField(db_index=True, default="star", max_length=40)
        ),
    ]
