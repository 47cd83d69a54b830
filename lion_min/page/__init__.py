"""A page in the browser: ask about a picture, see what stands behind the answer.

page.html is all that the browser loads; session.py answers its questions; server.py lets nobody
but this machine's own browser ask them.
"""
