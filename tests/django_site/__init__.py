"""A Django project as `django-admin startproject` makes it, with the admin site and the actor middleware.

It must not hold tables of its own: the tests track Django's.
"""
