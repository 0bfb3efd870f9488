"""Methods: what may be changed in a step of training, one file a family, all on one seam
(`base`)."""
