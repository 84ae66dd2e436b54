"""What the observatory looks at."""

from django.db import models


class Target(models.Model):
    """A place in the sky, in ICRS degrees."""

    name = models.CharField(max_length=100, unique=True)
    right_ascension = models.FloatField()
    declination = models.FloatField()
    object_class = models.CharField(max_length=40, default="star", db_index=True)
    aliases = models.JSONField(default=list)
    priority = models.PositiveSmallIntegerField(default=3)
