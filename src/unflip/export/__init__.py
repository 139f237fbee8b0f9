"""Models for other programs: ONNX files, and the Hugging Face hub."""
