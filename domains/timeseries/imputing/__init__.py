"""Gaps of series filled: what `timeseries/impute` is made of."""
