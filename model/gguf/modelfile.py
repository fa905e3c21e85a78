"""A Modelfile, by which Ollama takes in a GGUF file: `ollama create NAME -f Modelfile`."""

from pathlib import Path

from gguf import GGUFReader, Keys

_TEXT = """\
# A base model: it continues a text. It knows no roles and follows no instructions.
FROM ./{file}
TEMPLATE \"\"\"{{{{ .Prompt }}}}\"\"\"
PARAMETER num_ctx {context}
"""


def write(file: Path) -> Path:
    """Write a Modelfile beside a GGUF file and return where it is."""
    reader = GGUFReader(file)
    architecture = reader.fields[Keys.General.ARCHITECTURE].contents()
    context = reader.fields[Keys.LLM.CONTEXT_LENGTH.format(arch=architecture)].contents()
    text = _TEXT.format(file=file.name, context=context)
    if end := reader.fields.get(Keys.Tokenizer.EOS_ID):
        text += f'PARAMETER stop "{reader.fields[Keys.Tokenizer.LIST].contents(end.contents())}"\n'
    modelfile = file.with_name("Modelfile")
    partial = modelfile.with_name("Modelfile.partial")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(modelfile)
