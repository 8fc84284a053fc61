"""Twenty prompts on which every dictionary is judged by the graphs it gives; fixed, so that figures can be compared."""

PROMPTS: tuple[str, ...] = (
    # facts
    "The capital of France is",
    "The Golden Gate Bridge is in San",
    "The Eiffel Tower stands in the city of",
    "Water is made of hydrogen and",
    "The author of Hamlet was William",
    # opposites and lists
    'The opposite of "hot" is "',
    "Up and down, left and",
    "Monday, Tuesday, Wednesday, Thursday,",
    # arithmetic
    "1+1=2, 2+2=",
    "One, two, three, four,",
    # induction
    "red blue green red blue green red blue",
    "Mr. Dursley met Mrs. D",
    # pronouns and names
    "The queen raised the glass to",
    "Mary gave the book to John, and John thanked",
    # grammar
    "The keys to the cabinet",
    "Yesterday she went to the",
    # code
    "import numpy as np\nimport pandas as",
    "for i in range(",
    # chat
    "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n",
    "Question: What is a dog?\nAnswer:",
)
