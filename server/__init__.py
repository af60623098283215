"""The HTTP edge and the composition root; the dashboard and the server-side commands."""
