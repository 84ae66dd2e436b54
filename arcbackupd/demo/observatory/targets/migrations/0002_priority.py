from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("targets", "0001_initial")]

    operations = [
        migrations.AddField("Target", "priority", models.PositiveSmallIntegerField(default=3)),
    ]
