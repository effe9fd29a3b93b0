"""Speech recognition in many languages with Whisper base on CTranslate2."""
