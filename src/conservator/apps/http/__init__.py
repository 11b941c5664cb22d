"""The HTTP API: ``conservator serve``. Jobs in SQLite, worker processes that may die, and a thin face over both.

``run.py`` starts it, ``app.py`` has the endpoints, ``limits.py`` what is refused before a body is read, ``jobs.py`` the
list of jobs, ``crew.py`` the worker processes, and ``worker.py`` is what runs in them: only there is a photo opened.
"""
