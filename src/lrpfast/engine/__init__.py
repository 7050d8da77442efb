"""The planner and the executor: from rules and a model to relevances."""
