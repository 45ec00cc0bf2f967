"""What a cloud's Claude lacks, as edits of a request: features, nested fields, cache breakpoints, model ids."""
