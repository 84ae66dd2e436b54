from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("targets", "0003_object_class_index")]

    operations = [
        migrations.AddField("Target", "remarks", models.TextField(null=True)),
    ]
