from pathlib import Path

from model.gguf import modelfile
from tests.model.gguf import made


def test_ollama_is_told_of_a_base_model(tmp_path: Path) -> None:
    file = made.gguf(made.folder(tmp_path / "model", made.model("llama")), "Q8_0")
    written = modelfile.write(file)
    assert written == tmp_path / "Modelfile"
    instructions = [line for line in written.read_text().splitlines() if not line.startswith("#")]
    assert instructions == [
        "FROM ./model-Q8_0.gguf",
        'TEMPLATE """{{ .Prompt }}"""',
        f"PARAMETER num_ctx {made.CONTEXT}",
        'PARAMETER stop "<|endoftext|>"',
    ]
