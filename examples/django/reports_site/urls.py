"""Which view is where."""

from __future__ import annotations

from django.urls import path

from reports import views

urlpatterns = [
    path("titles/", views.title_now),
    path("answers/", views.answer_now),
    path("reports/", views.order),
    path("reports/<int:pk>/", views.show),
    path("reports/<int:pk>/events/", views.follow),
    path("reports/<int:pk>/stop/", views.stop),
]
