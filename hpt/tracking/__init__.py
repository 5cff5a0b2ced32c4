"""MLflow, and TensorBoard and W&B beside it: what they are told of a search or a run. The only room that imports
mlflow; begin with `mirror`.
"""
