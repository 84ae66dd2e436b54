"""What `arcbackupd demo` needs: a throwaway PostgreSQL and a small Django project to fill it."""
