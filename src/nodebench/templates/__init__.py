"""Starting points for a backend or a task: plugins that work, to be copied under another name and changed.

Each is a module here, checked and typed like any other; `mine` and `Mine` in it stand for the names it is given.
"""
