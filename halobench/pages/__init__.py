"""The sections of README and docs/ that are made from results/ and from the schema: no number in them is typed."""
