"""The import path that get_models_json.py files written for madengine 2 use."""
