"""Resume state and transcripts behind two small interfaces."""
