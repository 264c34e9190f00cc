"""Which kinds of embedding networks foldcam folds, tried one by one."""
