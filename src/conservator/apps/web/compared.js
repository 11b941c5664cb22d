// Runs when a photo of a folder is compared: the pictures may lie far above the card whose button was pressed.
() => { document.querySelector("#compared")?.scrollIntoView({block: "start"}); }
