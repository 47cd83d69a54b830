"""How the questions of tasks.py and talk.py are put into words.

TRAINING adds wordings to those of tasks.py and has all of talk.py's. HELDOUT has others that no
training text ever uses, though each of their words occurs in one: what a system answers to them it
has understood, not remembered. `Example.slots` fill the places {0}, {1}, ...
"""

from __future__ import annotations

import random
import re

YES_NO = "Answer yes or no."
WHERE = ("Where can you find {0}?", "Where is {0} in the image?", "Locate {0}.", "Point to {0}.",
         "What are the coordinates of {0}?", "Tell me where {0} is.", "Show me {0}.",
         "Can you show me {0}?", "Can you tell me where {0} is?", "Please point to {0}.")
SAME_SIDE = ("Is {0} {1} {2}?", "Do you see {0} {1} {2}?", "{0} is {1} {2}: yes or no?",
             f"Is it true that {{0}} is {{1}} {{2}}? {YES_NO}")
OTHER_SIDE = ("Can you see {0} {1} {2}?", "Yes or no: is {0} {1} {2}?", "Tell me: is {0} {1} {2}?")

TRAINING = {
    # ---- more wordings of tasks.py -----------------------------------------------------------
    "caption": ("What can you see?", "What do you see in the image?", "What does the image show?",
                "Describe this image.", "Tell me what is in the image.", "Describe what you see.",
                "Can you describe the image?"),
    "existence": ("Is {0} in the image?", "Do you see {0}?", "Does the image have {0}?",
                  "Is there {0} there?", f"Is it true that there is {{0}}? {YES_NO}"),
    "colour": ("What is the colour of the {0}?", "What colour does the {0} have?",
               "Name the colour of the {0}.", "The {0} has which colour?",
               "The {0}: what colour is it?", "Can you tell me the colour of the {0}?"),
    "kind": ("What is the {0}?", "Which shape does the {0} have?", "What is the shape of the {0}?",
             "What kind of shape is the {0}?", "Tell me the shape of the {0}.",
             "The {0}: which shape does it have?", "Can you tell me the shape of the {0}?"),
    "count": ("How many {0}?", "How many {0} can you see?", "How many {0} do you see?",
              "What is the number of {0}?", "How many {0} does the image show?", "Count all {0}.",
              "Tell me the number of {0}.", "Can you tell me the number of {0}?"),
    "relation": ("{0} is {1} {2}: true or false?", "Is this true or false: {0} is {1} {2}?",
                 "Tell me, true or false: {0} is {1} {2}."),
    "side": ("Tell me: is the {0} {2} or {3} of the {1}?", "Is it {2} or {3} of the {1}: the {0}?"),
    "reg": ("What is {0}?", "What object is in {0}?", "Tell me what is in {0}.", "Describe {0}.",
            "What can you see in {0}?", "{0}: what is it?", "Name the object in box {0}."),
    "rec": WHERE,
    # ---- talk.py -----------------------------------------------------------------------------
    "several": ("Where are the {0}?", "Find all {0}.", "Locate the {0}.", "Where are all the {0}?",
                "Give the boxes of the {0}.", "Point to all {0}.", "Where can you find {0}?",
                "Tell me where the {0} are.", "Show me all the {0}.", "Where are {0}?",
                "Can you show me all {0}?", "Can you point to the {0}?",
                "What are the coordinates of the {0}?"),
    "any": ("Are there {0}?", "Are there any {0}?", "Do you see any {0}?",
            "Does the image have any {0}?"),
    "holds": SAME_SIDE,
    "boxes_relation": (*SAME_SIDE, "Is the object in {0} {1} the object in {2}?",
                       "Is box {0} {1} box {2}?"),
    "boxes_same": ("Do {0} and {1} have the same {2}?", "Is the {2} of {0} and {1} the same?",
                   "Do the objects in {0} and {1} have the same {2}?",
                   "Does {0} have the {2} of {1}?", "{0} and {1}: have they the same {2}?"),
    "choice": ("Is the {0} {1} or {2}?", "The {0}: {1} or {2}?", "Tell me: is the {0} {1} or {2}?",
               "{1} or {2}: what is the {0}?", "What is it, {1} or {2}: the {0}?"),
    "texture": ("What texture does the {0} have?", "What is the texture of the {0}?",
                "Which texture does the {0} have?", "Name the texture of the {0}.",
                "Can you tell me the texture of the {0}?", "The {0}: which texture does it have?"),
    "attribute": ("Is the {0} {1}?", "Can you see that the {0} is {1}?", "Tell me: is the {0} {1}?",
                  "The {0} is {1}: yes or no?"),
    "neighbour": ("What is {0} the {1}?", "What can you see {0} the {1}?",
                  "Which object is {0} the {1}?", "What do you see {0} the {1}?",
                  "Name the object {0} the {1}.", "Describe what is {0} the {1}."),
    "bigger": ("Which is {2}, {0} or {1}?", "Which object is {2}, {0} or {1}?",
               "{0} or {1}: which is {2}?", "Which one is {2}: {0} or {1}?",
               "Tell me which one is {2}, {0} or {1}."),
    "bigger_than": ("Is {0} {2} than {1}?", "{0} is {2} than {1}: yes or no?",
                    "Do you see that {0} is {2} than {1}?",
                    f"Is it true that {{0}} is {{2}} than {{1}}? {YES_NO}"),
    "position": ("What is {0}?", "What do you see {0}?", "What can you see {0}?",
                 "Which objects are {0}?", "Describe what is {0}.", "What is there {0}?",
                 "Which objects do you see {0}?"),
    "list": ("List the {0}.", "Which {0} are there?", "What {0} are in the image?", "Name all {0}.",
             "What {0} do you see?", "Which {0} does the image have?", "Tell me all {0}.",
             "Tell me which {0} there are."),
    "more": ("Are there {0} {1} {2}?", "Do you see {0} {1} {2}?", "{0} {1} {2}: yes or no?",
             "Does the image show {0} {1} {2}?", f"Is it true that there are {{0}} {{1}} {{2}}? "
             f"{YES_NO}"),
    "hello": ("Hello.", "Hello there.", "Hello to you.", "Hello, can you see the image?"),
    "thanks": ("Thanks.", "Many thanks.", "Thanks for the answer."),
    "who": ("Who are you?", "What are you?", "Tell me who you are.", "Please tell me what you are.",
            "Can you tell me what you are?"),
    "help": ("What can I ask?", "What can I ask you?", "Tell me what I can ask.",
             "What can you tell me?", "What do you know?", "Please tell me what you know."),
}

HELDOUT = {
    "caption": ("What can you see in the image?", "Tell me what you see.", "Give a caption.",
                "Please describe what is in the image."),
    "existence": ("Do you see {0} in the image?", "Can you see {0} there?",
                  "Does this image show {0}?", "Please tell me: is there {0}?"),
    "colour": ("Can you tell me what colour the {0} is?", "Please name the colour of the {0}.",
               "Which colour is the {0}?", "The {0} is of what colour?"),
    "kind": ("Can you name the shape of the {0}?", "The {0} has which shape?",
             "Which kind of object is the {0}?", "The {0}: what shape is it?"),
    "count": ("Can you count the {0}?", "Tell me how many {0} there are.", "{0}: how many?",
              "How many {0} does the image have?"),
    "relation": ("Answer true or false: {0} is {1} {2}.", "{0} is {1} {2}. Is it true or false?",
                 "Please tell me, is it true or false that {0} is {1} {2}?"),
    "reg": ("What do you see in box {0}?", "Which object is in {0}?", "What does box {0} show?",
            "Tell me what the object in {0} is."),
    "rec": ("Find {0} in the image.", "Where do you see {0}?", "Can you find {0}?",
            "Please locate {0}.", "Give the coordinates of {0}."),
    "several": ("Where do you see {0}?", "Can you locate all {0}?", "Where in the image are the {0}?",
                "Give the coordinates of all {0}."),
    "any": ("Can you see any {0}?", "Does the image show any {0}?", "Tell me: are there any {0}?"),
    "holds": OTHER_SIDE,
    "boxes_relation": (*OTHER_SIDE, "Is the box {0} {1} the box {2}?"),
    "boxes_same": ("Are {0} and {1} of the same {2}?", "Is the {2} the same in {0} and {1}?",
                   "Do box {0} and box {1} have the same {2}?"),
    "choice": ("What is the {0}, {1} or {2}?", "Please tell me: is the {0} {1} or {2}?",
               "The {0} is {1} or {2}?"),
    "texture": ("Tell me the texture of the {0}.", "The {0} has which texture?",
                "Can you name the texture of the {0}?"),
    "attribute": ("Yes or no: is the {0} {1}?", "Do you see that the {0} is {1}?",
                  f"Is it true that the {{0}} is {{1}}? {YES_NO}"),
    "neighbour": ("Tell me what is {0} the {1}.", "What object do you see {0} the {1}?",
                  "Describe the object {0} the {1}."),
    "bigger": ("What is {2}, {0} or {1}?", "Tell me which is {2}, {0} or {1}.",
               "Of {0} and {1}, which is {2}?"),
    "bigger_than": ("Yes or no: is {0} {2} than {1}?", "Tell me: is {0} {2} than {1}?",
                    "Can you see that {0} is {2} than {1}?"),
    "position": ("Tell me what is {0}.", "What objects are {0}?", "Describe the objects {0}."),
    "list": ("List all {0}.", "What {0} are there?", "Tell me which {0} you see."),
    "more": ("Can you see {0} {1} {2}?", "Does the image have {0} {1} {2}?",
             "Yes or no: are there {0} {1} {2}?"),
    "hello": ("Hello, you.", "Hello, are you there?", "Please, hello."),
    "thanks": ("Thanks to you.", "Many thanks for the answer.", "Thanks, please."),
    "who": ("Can you tell me who you are?", "Please tell me who you are.", "Tell me what you are."),
    "help": ("Please tell me what I can ask.", "What can I ask you there?",
             "Can you tell me what I can ask?"),
}


def filled(wording: str, slots: tuple[str, ...]) -> str:
    """The wording with its slots, an empty one left out, and a capital letter."""
    text = re.sub(r" +(?=[ ?.:,])", "", wording.format(*slots))
    return text[0].upper() + text[1:]


def typed(text: str, rng: random.Random) -> str:
    """The text as people type it: some in lower case, without its last sign, or in American."""
    text = text.lower() if rng.random() < 0.3 else text
    text = text[:-1] if rng.random() < 0.25 and text[-1] in "?." else text
    return text.replace("colour", "color") if rng.random() < 0.3 else text
