"""A small byte-level BPE tokenizer folder, made without a network, for the peers of benchmarks/peers.py.

    PEER/bin/python benchmarks/tokenizer.py FOLDER

Run it with the Python of a peer, which has tokenizers and transformers. It is trained on made-up words.
"""

import random
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def words(seed: int = 0) -> list[str]:
    """Lines of words of two to four syllables."""
    source = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstv" for b in "aeiou"]
    made = ["".join(source.choices(syllables, k=source.randint(2, 4))) for _ in range(3000)]
    return [" ".join(source.choices(made, k=12)) for _ in range(5000)]


def main() -> None:
    """Train, and save in the form that transformers reads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words(), trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        bos_token=END,
        model_max_length=131072,
    )
    whole.chat_template = TEMPLATE
    whole.save_pretrained(sys.argv[1])


if __name__ == "__main__":
    main()
