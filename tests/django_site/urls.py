"""The project's addresses: the admin site.

It must not hold views: tests that need one write it themselves.
"""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
