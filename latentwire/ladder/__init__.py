"""The ladder: seven rungs from prompts to capacity; the first one that fails says where a wire is broken.

    0 parity      the same ids reach training, evaluation, every baseline and the encoder, whole
    1 replay      the text's own embeddings give the text's result; a batch gives what its rows give alone
    2 channel     the prefix is as large as text, and latents without an encoder can be read
    3 overfit     every trained parameter moves, and encoder, adapter and injector learn a few examples by heart
    4 condition   what is said depends on the latents, and the latents on the text; slots differ
    5 budget      the checkpoint is whole, gives its own metric again, and beats no context and the fair token budget
    6 squeeze     fewer bits and fewer latents until that no longer holds: the capacity curve

Rungs 0 to 4 judge a configuration with a fresh wire, in minutes. Rungs 5 and 6 judge a trained one.

**Where pooling that repeats one mean in every slot falls.** Not at rung 3: one vector of `d_z` numbers is enough to
learn 64 examples by heart. It falls at rung 4, where the slots of a message have an effective rank of 0. Where rung 3
fails for another reason, its remedy says so if the slots are alike.
"""
