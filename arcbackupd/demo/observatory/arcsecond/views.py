"""What the sample observatory answers over HTTP."""

from django.http import HttpRequest, JsonResponse
from observations.models import Observation


def health(_request: HttpRequest) -> JsonResponse:
    """Answer 200 when the database can be queried."""
    return JsonResponse({"status": "ok", "any_observation": Observation.objects.exists()})


def latest(_request: HttpRequest) -> JsonResponse:
    """Answer with the newest ten observations."""
    rows = Observation.objects.order_by("-id").values("id", "target__name", "band")[:10]
    return JsonResponse({"observations": list(rows)})
