"""Medical images and signals: classes, structures, pretraining and heart beats. For research use."""
