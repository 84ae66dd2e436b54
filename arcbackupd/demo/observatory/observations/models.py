"""What the observatory has seen."""

from django.conf import settings
from django.db import models


class Observation(models.Model):
    """One exposure of one target, with the header of its FITS file."""

    target = models.ForeignKey("targets.Target", on_delete=models.CASCADE)
    observer = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    started_at = models.DateTimeField(db_index=True)
    exposure_seconds = models.FloatField()
    band = models.CharField(max_length=8)
    header = models.JSONField(default=dict)
    airmass = models.FloatField(null=True)


class Photometry(models.Model):
    """One brightness measured on one observation."""

    observation = models.ForeignKey(Observation, on_delete=models.CASCADE)
    aperture_pixels = models.FloatField()
    magnitude = models.FloatField()
    uncertainty = models.FloatField()
    note = models.TextField(default="")
