"""The two pages of the sample observatory."""

from django.urls import path

from arcsecond import views

urlpatterns = [
    path("health", views.health),
    path("observations/latest", views.latest),
]
