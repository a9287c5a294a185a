"""Sources read to the end, or refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bilinear_lm import InputError
from finetune.choices import Selection
from finetune.data.sources import documents

ROWS = '{"text": "One.", "id": 1}\n{"text": "  Two.\\nMore.", "id": 2}\n'


READ = ["One.", "  Two.\nMore."]


def read(source, **selection):
    return list(documents(str(source), Selection(**selection)))


def refusal(source, **selection):
    with pytest.raises(InputError) as caught:
        read(source, **selection)
    said = str(caught.value)
    assert "\n" not in said
    return said


def parquet(columns, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


CARD = """---
configs:
- config_name: en
  data_files: en/*.jsonl
- config_name: fr
  data_files:
  - {split: test, path: fr/*.jsonl}
---
"""
