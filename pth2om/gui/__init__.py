"""The window: ``pth2om gui``, the third face beside pytest and the command line, in any browser.

It has no logic of its own. A page is a form; what a form starts is a job: the command line's own verb in a process of
its own, so that a job's evidence is that of the line that the page shows. What a page displays is read from the files
that the verb wrote. Nothing heavy is imported in the server.

::

    settings.py   where the server listens, which folders it may read, what it keeps for a project
    guard.py      who may ask: the token, Host and Origin, sizes; the headers of every answer
    places.py     folders and files that may be shown and picked, and uploads
    forms.py      a verb's arguments as a form, a form as words of the command line
    journal.py    jobs on disk: what was asked, how far it is, how it ended
    queue.py      starts, limits and ends processes
    runner.py     the process of one job
    pages/        one file a page
"""
