"""MLflow: the mirror of a search or a run, and how its pages show it. The only room that imports mlflow; begin with
`mirror`.
"""
