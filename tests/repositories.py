"""Git, for tests that make repositories of their own."""

import subprocess


def git(folder, *arguments):
    """Call it in a folder, as somebody, and on the branch `main` where it begins one; what it printed."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
