"""The organism's tokenizer: a token a word, words being what stands between spaces."""

from typing import Any

from .sentences import START, STRANGE, vocabulary


def tokenizer() -> Any:
    """A transformers tokenizer that puts the start token first itself; words it does not know become `<unk>`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = vocabulary()
    whole = Tokenizer(WordLevel(words, unk_token=STRANGE))
    whole.pre_tokenizer = WhitespaceSplit()
    whole.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, words[START])])
    return PreTrainedTokenizerFast(tokenizer_object=whole, bos_token=START, unk_token=STRANGE, clean_up_tokenization_spaces=False)
